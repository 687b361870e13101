"""Several data sets made one."""
