"""Files of a data folder: parts of tables, shards, and the ledger of their footers; each with the digest of its content."""
