"""What the files of a data folder hold: parts of tables, shards, and the ledger of their footers; each with the digest of its content."""
