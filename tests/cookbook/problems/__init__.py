"""Problems with a right answer."""
