"""Cheng's collection of tumours (figshare 1512427), made a data set."""
