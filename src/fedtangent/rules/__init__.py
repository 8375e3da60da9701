"""How to average when some of the senders lie: one rule, one file."""
