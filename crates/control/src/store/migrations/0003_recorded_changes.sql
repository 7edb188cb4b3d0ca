-- What was asked of a network while it was recorded, in the order in which it was done.
CREATE TABLE recorded_change (
    recording TEXT NOT NULL,
    number BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (recording, number)
);
