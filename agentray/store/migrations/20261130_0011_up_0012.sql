-- What operators have ordered of hosts, pools and machines, until they take it back.

CREATE TABLE orders (
    kind    text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    value   text NOT NULL,  -- JSON
    PRIMARY KEY (kind, subject)
);
