"""What the tests of rules share: the table, the derivative products, the comparison, and rules wrong on purpose."""
