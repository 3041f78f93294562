"""The usual draw of next tokens in C."""
