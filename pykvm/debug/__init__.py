"""Tools that look at a machine from outside: a debugger's control of it, and gdb's remote protocol over that."""
