-- The floor: double-entry transfers in plain Postgres, as lean as one could write them by hand. One call, one commit.
-- A transfer has what a transaction of Daybook has: an id that grows with time, a unique reference, metadata and two
-- times; accounts have names and limits, and an entry the balance it led to. There are no events.

CREATE TABLE accounts (
    name text PRIMARY KEY,
    debits numeric(38, 0) NOT NULL DEFAULT 0,
    credits numeric(38, 0) NOT NULL DEFAULT 0,
    min_balance numeric(38, 0),
    max_balance numeric(38, 0),
    version bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE transfers (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    debit text NOT NULL,
    credit text NOT NULL,
    amount numeric(38, 0) NOT NULL CHECK (amount > 0 AND amount < 1e38),
    reference text UNIQUE,
    metadata jsonb NOT NULL DEFAULT '{}',
    effective_at timestamptz NOT NULL DEFAULT now(),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE entries (
    account text NOT NULL,
    version bigint NOT NULL,
    transfer uuid NOT NULL,
    amount numeric(38, 0) NOT NULL,
    balance numeric(38, 0) NOT NULL,
    PRIMARY KEY (account, version)
);

-- Credit-normal accounts: a debit lowers the balance. Rows are locked in the order of their names, against deadlocks.
CREATE FUNCTION transfer(debited text, credited text, moved numeric) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    one accounts;
    giver accounts;
    taker accounts;
    made uuid;
BEGIN
    FOR one IN SELECT * FROM accounts WHERE name IN (debited, credited) ORDER BY name FOR NO KEY UPDATE LOOP
        IF one.name = debited THEN giver := one; ELSE taker := one; END IF;
    END LOOP;
    IF giver.credits - giver.debits - moved < giver.min_balance THEN
        RAISE EXCEPTION 'insufficient funds in %', debited;
    END IF;
    IF taker.credits + moved - taker.debits > taker.max_balance THEN
        RAISE EXCEPTION 'balance of % would be too high', credited;
    END IF;
    INSERT INTO transfers (debit, credit, amount) VALUES (debited, credited, moved) RETURNING id INTO made;
    INSERT INTO entries (account, version, transfer, amount, balance) VALUES
        (debited, giver.version + 1, made, -moved, giver.credits - giver.debits - moved),
        (credited, taker.version + 1, made, moved, taker.credits - taker.debits + moved);
    UPDATE accounts SET
        debits = debits + CASE WHEN name = debited THEN moved ELSE 0 END,
        credits = credits + CASE WHEN name = credited THEN moved ELSE 0 END,
        version = version + 1
    WHERE name IN (debited, credited);
    RETURN made;
END $$;
