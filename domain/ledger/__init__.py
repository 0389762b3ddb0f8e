"""The ledger aggregate: accounts, transactions and the rules that guard them."""
