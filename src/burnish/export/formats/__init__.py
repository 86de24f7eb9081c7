"""Export formats: the table FORMATS and a writer for each."""
