"""What drafters propose, and how sure they are."""
