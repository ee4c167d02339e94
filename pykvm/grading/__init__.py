"""Grading: a lab's tests, run on the kernels that a class has handed in.

`lab` reads what the tests are, `submission` unpacks and builds what was handed in, `checks` runs one test on one
machine, `grader` all tests of a lab on one submission, `pool` many submissions side by side, `journal` keeps what is
done, and `reports` writes it down for people and programs. docs/grading.md has the file format.
"""
