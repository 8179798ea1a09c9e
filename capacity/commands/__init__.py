"""What each command of the CLI does; imported only when that command runs."""
