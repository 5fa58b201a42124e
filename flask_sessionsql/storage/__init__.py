"""The sessions in their database: the table, the statements on it and how they run."""
