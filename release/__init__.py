"""What is made of this project for others: completions, man page, packages. Not part of what is installed."""
