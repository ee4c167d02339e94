"""Each test gets a machine of its own, which has booted to "ready"."""


def test_it_hears_what_is_typed(machine):
    machine.send("a")
    machine.serial.expect("you typed a\n")


def test_nothing_of_another_test_is_left(machine):
    machine.send("b")
    assert machine.serial.expect("you typed b\n").before == ""


def test_q_ends_the_machine(machine):
    machine.send("q")
    assert machine.wait().code == 33
