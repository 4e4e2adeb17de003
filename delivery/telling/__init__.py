"""What our services tell operators: who was refused what, and what namespaces use."""
