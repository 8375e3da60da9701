"""Sites: a real federation, of processes that trust one another as far as a certificate goes."""
