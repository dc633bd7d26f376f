"""The functions of the language, a file each: all that is known of one stands there."""
