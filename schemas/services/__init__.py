"""What our services write for each other and for operators, beside requests and replies."""
