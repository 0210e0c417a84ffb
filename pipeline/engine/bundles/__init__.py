"""Many parts of a table in one file: how it is written and read, which one holds a part, and when parts come into one."""
