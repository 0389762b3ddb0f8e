-- The reference: double-entry transfers in plain Postgres, as one would write them well by hand. One call, one commit.

CREATE TABLE accounts (
    id int PRIMARY KEY,
    debits numeric(38, 0) NOT NULL DEFAULT 0,
    credits numeric(38, 0) NOT NULL DEFAULT 0,
    min_balance numeric(38, 0),
    max_balance numeric(38, 0),
    version bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE transfers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    debit int NOT NULL,
    credit int NOT NULL,
    amount numeric(38, 0) NOT NULL CHECK (amount > 0 AND amount < 1e38),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE entries (
    account int NOT NULL,
    transfer bigint NOT NULL,
    amount numeric(38, 0) NOT NULL,
    balance numeric(38, 0) NOT NULL,
    PRIMARY KEY (account, transfer)
);

-- Credit-normal accounts: a debit lowers the balance. Rows are locked in the order of their ids, against deadlocks.
CREATE FUNCTION transfer(debited int, credited int, moved numeric) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    one accounts;
    giver accounts;
    taker accounts;
    made bigint;
BEGIN
    FOR one IN SELECT * FROM accounts WHERE id IN (debited, credited) ORDER BY id FOR NO KEY UPDATE LOOP
        IF one.id = debited THEN giver := one; ELSE taker := one; END IF;
    END LOOP;
    IF giver.credits - giver.debits - moved < giver.min_balance THEN
        RAISE EXCEPTION 'insufficient funds in %', debited;
    END IF;
    IF taker.credits + moved - taker.debits > taker.max_balance THEN
        RAISE EXCEPTION 'balance of % would be too high', credited;
    END IF;
    INSERT INTO transfers (debit, credit, amount) VALUES (debited, credited, moved) RETURNING id INTO made;
    INSERT INTO entries (account, transfer, amount, balance) VALUES
        (debited, made, -moved, giver.credits - giver.debits - moved),
        (credited, made, moved, taker.credits - taker.debits + moved);
    UPDATE accounts SET
        debits = debits + CASE WHEN id = debited THEN moved ELSE 0 END,
        credits = credits + CASE WHEN id = credited THEN moved ELSE 0 END,
        version = version + 1
    WHERE id IN (debited, credited);
    RETURN made;
END $$;
