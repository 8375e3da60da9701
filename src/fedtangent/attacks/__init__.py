"""What a Byzantine node sends: one attack, one file."""
