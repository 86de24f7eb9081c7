"""Other tools' languages: their files and command lines, translated."""
