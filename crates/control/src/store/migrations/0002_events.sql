-- What happened to accounts' things, as JSON documents. Within an account the time is the event's number.
CREATE TABLE event (
    account TEXT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    resource TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (account, at)
);
CREATE INDEX event_in_order ON event (at, account);
