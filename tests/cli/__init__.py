"""The command line as a user meets it: commands, help, errors of one line."""
