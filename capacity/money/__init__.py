"""Money: dated prices and rates turned into cost lines with ranges."""
