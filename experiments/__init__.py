"""The paper's tables, one command each; imports everything else and is imported by nothing."""
