"""Databases over ADBC: the statement that is asked, the driver that asks it, and the types that come back."""
