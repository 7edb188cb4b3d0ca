-- Resources of every kind, as JSON documents. `public` ones are seen by every account.
CREATE TABLE resource (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    account TEXT NOT NULL,
    public BIGINT NOT NULL,
    body TEXT NOT NULL,
    version BIGINT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX resource_in_order ON resource (kind, created, id);
CREATE INDEX resource_of_account ON resource (account, kind, created, id);

-- Who points at whom. The ends are not foreign keys: what may be deleted is decided in one place, with its reason.
CREATE TABLE reference (
    from_kind TEXT NOT NULL,
    from_id TEXT NOT NULL,
    to_id TEXT NOT NULL,
    PRIMARY KEY (from_kind, from_id, to_id)
);
CREATE INDEX reference_backwards ON reference (to_id, from_kind, from_id);

-- What each account has of what its quota limits, kept with every change so that a check does not count.
CREATE TABLE usage (
    account TEXT NOT NULL,
    item TEXT NOT NULL,
    amount BIGINT NOT NULL,
    PRIMARY KEY (account, item)
);

-- Answers of requests that carried an idempotency key.
CREATE TABLE idempotency (
    account TEXT NOT NULL,
    key TEXT NOT NULL,
    request TEXT NOT NULL,
    answer TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (account, key)
);
CREATE INDEX idempotency_by_age ON idempotency (created);

-- Blobs that an account uploaded itself, and so may make images of, or a host, and so may give as a snapshot.
CREATE TABLE upload (
    uploader TEXT NOT NULL,
    digest TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (uploader, digest)
);

CREATE TABLE setting (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
