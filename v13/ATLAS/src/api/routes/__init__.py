"""Route modules of the host that are included one by one."""
