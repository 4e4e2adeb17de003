"""Models before they are applied, and whether guidance fits them."""
