"""How training scales over processes and hosts."""
