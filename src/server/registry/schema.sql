-- The registry of today, table by table. vgrid-registry init makes it of this file; what brings the registry of an
-- earlier version here is in schema.rs, and a test holds that both ways lead to the same.
--
-- Times are seconds since 1970 (UTC). The CHECKs repeat what the program's types promise, for whoever opens the file
-- with another program. The comments stay here: SQLite keeps the text of each statement, and reads it whenever a program
-- opens the registry.

-- Whoever has ever had a machine. Nobody is removed.
CREATE TABLE user (
    canonical TEXT PRIMARY KEY NOT NULL CHECK (canonical <> ''), -- as vGrid writes the name: blanks as underscores
    raw TEXT NOT NULL UNIQUE CHECK (raw <> ''),                  -- as Apache gave it the first time
    since INTEGER NOT NULL,
    mail TEXT CHECK (mail <> ''),                                -- the address that authentication gave last
    folded TEXT CHECK (folded <> '')                             -- what names are compared by; the first to fold so has it
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX user_folded ON user (folded);

-- Machines. One that has ended stays for its history, as 'notDeployed'; no index that pages count with has it.
CREATE TABLE vm (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),        -- UUID, version 7: sorted by it, the newest is last
    owner TEXT NOT NULL REFERENCES user (canonical),
    virtual_host TEXT NOT NULL CHECK (virtual_host <> ''),       -- the name that it has while it is live
    physical_host TEXT NOT NULL CHECK (physical_host <> ''),     -- the host that it is for
    image TEXT NOT NULL CHECK (image <> ''),                     -- a tag of [VMImages]
    memory_mib INTEGER NOT NULL CHECK (memory_mib > 0),
    disk_gib INTEGER NOT NULL CHECK (disk_gib > 0),              -- its root partition
    label TEXT NOT NULL,                                         -- what its owner calls it
    lease TEXT NOT NULL CHECK (lease <> ''),                     -- as asked for: '7d', 'never'
    state TEXT NOT NULL CHECK (state IN ('deploying', 'deployed', 'stopping', 'stopped', 'starting',
        'rebooting', 'saving', 'expired', 'terminating', 'failed', 'notDeployed')),
    stage TEXT,                                                  -- how far its host is with the last order
    percent INTEGER CHECK (percent BETWEEN 0 AND 100),           -- how much of that stage is done
    place INTEGER CHECK (place IS NULL OR (place > 0 AND state = 'deploying')), -- its place in its host's queue
    fault TEXT,                                                  -- what went wrong last, as JSON (model/fault.rs)
    last_order TEXT NOT NULL CHECK
        (last_order IN ('deploy', 'terminate', 'stop', 'start', 'reboot', 'save')),
    sequence INTEGER NOT NULL CHECK (sequence >= 0),             -- the number of the last report about that order
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,                                    -- when its state last changed
    expires INTEGER CHECK ((expires IS NULL) = (lease = 'never')),
    deadline INTEGER CHECK ((deadline IS NOT NULL) =             -- how long its state may last
        (state IN ('deploying', 'stopping', 'starting', 'rebooting', 'saving', 'terminating'))),
    on_node TEXT NOT NULL CHECK (on_node IN ('no', 'maybe')),    -- whether something of it may be on its host
    was_deployed INTEGER NOT NULL CHECK (was_deployed IN (0, 1)), -- whether it ever ran
    wanted TEXT NOT NULL DEFAULT 'running' CHECK (wanted IN ('running', 'stopped')),
    protected INTEGER NOT NULL DEFAULT 0 CHECK (protected IN (0, 1)),
    deletion INTEGER,                                            -- its disk is not removed before; set when its lease ends
    save_as TEXT CHECK (save_as <> ''),                          -- what its disk is being saved as
    then_terminate INTEGER NOT NULL DEFAULT 0 CHECK
        (then_terminate = 0 OR (then_terminate = 1 AND save_as IS NOT NULL)),
    from_owner TEXT,                                             -- the saved image that it was made from
    from_name TEXT CHECK ((from_name IS NULL) = (from_owner IS NULL)),
    silent INTEGER NOT NULL DEFAULT 0 CHECK (silent >= 0),       -- how many pings in a row it did not answer
    order_number INTEGER NOT NULL DEFAULT 0 CHECK (order_number >= 0), -- of the last order: its time in milliseconds
    placed TEXT NOT NULL DEFAULT 'asked' CHECK (placed IN ('asked', 'chosen', 'again')) -- who chose the host
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX vm_name ON vm (virtual_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_host ON vm (physical_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_owner ON vm (owner) WHERE state <> 'notDeployed';
CREATE INDEX vm_live ON vm (id) WHERE state <> 'notDeployed';

-- History, for people to read: of a machine, or of a subject (a host, a name, an image, the portal).
CREATE TABLE event (
    vm TEXT REFERENCES vm (id),
    at INTEGER NOT NULL,
    who TEXT NOT NULL,                                           -- a user, 'host NAME', 'upkeep', …
    origin TEXT NOT NULL,                                        -- the address that the request came from
    what TEXT NOT NULL CHECK (what <> ''),
    detail TEXT NOT NULL,
    subject TEXT CHECK ((subject IS NULL) = (vm IS NOT NULL))
) STRICT;

CREATE INDEX event_vm ON event (vm);
CREATE INDEX event_at ON event (at);

-- What owners were told of leases, each thing once for each end of a lease.
CREATE TABLE notice (
    vm TEXT NOT NULL REFERENCES vm (id),
    kind TEXT NOT NULL CHECK (kind <> ''),
    lease_end INTEGER NOT NULL,
    at INTEGER NOT NULL,
    lived INTEGER NOT NULL,                                      -- how long the portal had lived then, in seconds
    PRIMARY KEY (vm, kind, lease_end)
) STRICT, WITHOUT ROWID;

-- Orders that are recognised when they are sent again, as long as their machine is there.
CREATE TABLE deploy_request (
    owner TEXT NOT NULL REFERENCES user (canonical),
    request TEXT NOT NULL CHECK (request <> ''),                 -- the form's or the script's mark
    wish TEXT NOT NULL,                                          -- a digest of what was asked for
    vm TEXT NOT NULL CHECK (length(vm) = 36),
    PRIMARY KEY (owner, request)
) STRICT, WITHOUT ROWID;

CREATE INDEX deploy_request_vm ON deploy_request (vm);

-- Saved images. The file is on one host.
CREATE TABLE image (
    owner TEXT NOT NULL REFERENCES user (canonical),
    name TEXT NOT NULL CHECK (name <> ''),
    host TEXT NOT NULL CHECK (host <> ''),
    base TEXT NOT NULL CHECK (base <> ''),                       -- the tag that its machine was first made from
    bytes INTEGER NOT NULL CHECK (bytes >= 0),                   -- the size of the file
    disk_gib INTEGER NOT NULL CHECK (disk_gib > 0),              -- the smallest partition that it fits in
    shared INTEGER NOT NULL DEFAULT 0 CHECK (shared IN (0, 1)),
    saved INTEGER NOT NULL,
    PRIMARY KEY (owner, name)
) STRICT, WITHOUT ROWID;

-- What hosts said of themselves last. Sizes in MiB.
CREATE TABLE host (
    name TEXT PRIMARY KEY NOT NULL CHECK (name <> ''),
    memory_free INTEGER NOT NULL CHECK (memory_free >= 0),
    memory_total INTEGER NOT NULL CHECK (memory_total >= 0),
    disk_free INTEGER NOT NULL CHECK (disk_free >= 0),
    disk_total INTEGER NOT NULL CHECK (disk_total >= 0),
    version TEXT NOT NULL,
    common_digest TEXT NOT NULL,                                 -- of its common.cfg
    seen INTEGER NOT NULL,
    images TEXT                                                  -- the tags whose files it has; NULL if it never said
) STRICT, WITHOUT ROWID;

-- Hosts on which deploys have failed for the host's own sake since the last one that did not.
CREATE TABLE host_failure (
    host TEXT PRIMARY KEY NOT NULL CHECK (host <> ''),
    failures INTEGER NOT NULL CHECK (failures > 0),
    last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How upkeep's last attempt to reach each host ended.
CREATE TABLE contact (
    host TEXT PRIMARY KEY NOT NULL CHECK (host <> ''),
    tried INTEGER NOT NULL,
    fault TEXT,                                                  -- why it could not be asked; NULL if it answered
    since INTEGER NOT NULL,
    told INTEGER NOT NULL DEFAULT 0 CHECK (told IN (0, 1))       -- whether administrators know that it does not answer
) STRICT, WITHOUT ROWID;

-- What hosts have and the registry does not know. An administrator adopts it or has it removed.
CREATE TABLE stray (
    host TEXT NOT NULL CHECK (host <> ''),
    kind TEXT NOT NULL CHECK (kind IN ('domain', 'volume', 'record', 'image')),
    name TEXT NOT NULL CHECK (name <> ''),
    detail TEXT NOT NULL,
    since INTEGER NOT NULL,
    ordered_by TEXT,                                             -- who ordered its removal, until that has failed
    ordered_at INTEGER CHECK ((ordered_at IS NULL) = (ordered_by IS NULL)),
    PRIMARY KEY (host, kind, name)
) STRICT, WITHOUT ROWID;

-- What administrators have closed. The portal has no name.
CREATE TABLE closed (
    kind TEXT NOT NULL CHECK (kind IN ('portal', 'host', 'name')),
    name TEXT NOT NULL CHECK ((name = '') = (kind = 'portal')),
    reason TEXT NOT NULL,
    who TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

-- The outbox: mail that waits.
CREATE TABLE mail (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),        -- UUID, version 7; its Message-ID is made of it
    recipient TEXT NOT NULL CHECK (recipient <> ''),
    subject TEXT NOT NULL,
    plain TEXT NOT NULL,
    html TEXT NOT NULL,
    queued INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    next_try INTEGER NOT NULL,                                   -- later while somebody is sending it
    error TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX mail_next ON mail (next_try);

-- Owners for whom there was mail and who have no address, until they have one.
CREATE TABLE unreachable (
    owner TEXT PRIMARY KEY NOT NULL REFERENCES user (canonical),
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What administrators were told of deploys that failed, for a day.
CREATE TABLE told_fault (
    host TEXT NOT NULL CHECK (host <> ''),
    kind TEXT NOT NULL CHECK (kind <> ''),
    subject TEXT NOT NULL,                                       -- the image or name that it is about; '' for none
    at INTEGER NOT NULL,
    PRIMARY KEY (host, kind, subject)
) STRICT, WITHOUT ROWID;

-- The portal's own clock. One row.
CREATE TABLE upkeep (
    only INTEGER PRIMARY KEY NOT NULL CHECK (only = 1),
    last INTEGER NOT NULL,                                       -- when upkeep last began
    lived INTEGER NOT NULL CHECK (lived >= 0)                    -- the sum of the times between its runs, in seconds
) STRICT, WITHOUT ROWID;

-- Which registry this is. One row, entered by whoever makes it: SQL has no UUID of version 7.
CREATE TABLE identity (
    only INTEGER PRIMARY KEY NOT NULL CHECK (only = 1),
    id TEXT NOT NULL CHECK (length(id) = 36),
    since INTEGER NOT NULL,
    restored INTEGER,                                            -- when a backup was last put in its place
    compared INTEGER CHECK (compared IS NULL OR restored IS NOT NULL) -- when all hosts had been asked since
) STRICT, WITHOUT ROWID;
