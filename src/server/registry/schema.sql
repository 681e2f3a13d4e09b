-- The current schema of the registry, table by table. vgrid-registry init creates it from this
-- file; the migrations from earlier versions are in schema.rs, and a test checks that both lead to
-- the same schema.
--
-- Times are seconds since 1970 (UTC). The CHECKs repeat what the program's types guarantee, for
-- anyone who opens the file with another program. The comments stay in this file: SQLite stores the
-- text of each statement and parses it whenever a program opens the registry.

-- Everyone who has ever had a machine. Nobody is removed.
CREATE TABLE user (
    canonical TEXT PRIMARY KEY NOT NULL CHECK (canonical <> ''), -- as vGrid writes it: blanks as underscores
    raw TEXT NOT NULL UNIQUE CHECK (raw <> ''),                  -- as Apache first gave it
    since INTEGER NOT NULL,
    mail TEXT CHECK (mail <> ''),                                -- as last given by authentication
    folded TEXT CHECK (folded <> '')                             -- NULL if an older user folds alike
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX user_folded ON user (folded);

-- Machines. One that has ended stays for its history, as 'notDeployed'; the indexes that pages
-- count with leave it out.
CREATE TABLE vm (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),        -- UUID, version 7: sorts by age
    owner TEXT NOT NULL REFERENCES user (canonical),
    virtual_host TEXT NOT NULL CHECK (virtual_host <> ''),       -- its name while it is live
    physical_host TEXT NOT NULL CHECK (physical_host <> ''),     -- its host
    image TEXT NOT NULL CHECK (image <> ''),                     -- a tag of [VMImages]
    memory_mib INTEGER NOT NULL CHECK (memory_mib > 0),
    disk_gib INTEGER NOT NULL CHECK (disk_gib > 0),              -- its root partition
    label TEXT NOT NULL,                                         -- what its owner calls it
    lease TEXT NOT NULL CHECK (lease <> ''),                     -- as requested: '7d', 'never'
    state TEXT NOT NULL CHECK (state IN ('deploying', 'deployed', 'stopping', 'stopped', 'starting',
        'rebooting', 'saving', 'resizing', 'expired', 'terminating', 'failed', 'notDeployed')),
    stage TEXT,                                                  -- the progress of the last order
    percent INTEGER CHECK (percent BETWEEN 0 AND 100),           -- how much of that stage is done
    place INTEGER CHECK (place IS NULL OR (place > 0 AND state = 'deploying')), -- among those it waits for
    fault TEXT,                                                  -- the last one, as JSON (model/fault.rs)
    last_order TEXT NOT NULL CHECK
        (last_order IN ('deploy', 'terminate', 'stop', 'start', 'reboot', 'save', 'resize')),
    sequence INTEGER NOT NULL CHECK (sequence >= 0),             -- of the last report on that order
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,                                    -- when its state last changed
    expires INTEGER CHECK ((expires IS NULL) = (lease = 'never')),
    deadline INTEGER CHECK ((deadline IS NOT NULL) =             -- when its state times out
        (state IN ('deploying', 'stopping', 'starting', 'rebooting', 'saving', 'resizing', 'terminating'))),
    on_node TEXT NOT NULL CHECK (on_node IN ('no', 'maybe')),    -- whether any of it may be on its host
    was_deployed INTEGER NOT NULL CHECK (was_deployed IN (0, 1)), -- whether it ever ran
    wanted TEXT NOT NULL DEFAULT 'running' CHECK (wanted IN ('running', 'stopped')),
    protected INTEGER NOT NULL DEFAULT 0 CHECK (protected IN (0, 1)),
    deletion INTEGER,                                            -- of its disk, at the earliest; set at lease end
    save_as TEXT CHECK (save_as <> ''),                          -- the image being saved
    then_terminate INTEGER NOT NULL DEFAULT 0 CHECK
        (then_terminate = 0 OR (then_terminate = 1 AND save_as IS NOT NULL)),
    from_owner TEXT,                                             -- the saved image it was made from
    from_name TEXT CHECK ((from_name IS NULL) = (from_owner IS NULL)),
    silent INTEGER NOT NULL DEFAULT 0 CHECK (silent >= 0),       -- unanswered pings in a row
    order_number INTEGER NOT NULL DEFAULT 0 CHECK (order_number >= 0), -- of the last order, from its time in ms
    placed TEXT NOT NULL DEFAULT 'asked' CHECK (placed IN ('asked', 'chosen', 'again')), -- who chose the host
    cpus INTEGER NOT NULL DEFAULT 1 CHECK (cpus BETWEEN 1 AND 64),
    new_memory_mib INTEGER CHECK (new_memory_mib > 0),           -- the sizes being given to it
    new_cpus INTEGER CHECK
        ((new_cpus IS NULL OR new_cpus BETWEEN 1 AND 64) AND (new_cpus IS NULL) = (new_memory_mib IS NULL)),
    new_disk_gib INTEGER CHECK
        ((new_disk_gib IS NULL OR new_disk_gib > 0) AND (new_disk_gib IS NULL) = (new_memory_mib IS NULL)),
    from_vm TEXT,                                                -- the machine whose snapshot it was made from
    from_snapshot TEXT CHECK ((from_snapshot IS NULL) = (from_vm IS NULL))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX vm_name ON vm (virtual_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_host ON vm (physical_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_owner ON vm (owner) WHERE state <> 'notDeployed';
CREATE INDEX vm_live ON vm (id) WHERE state <> 'notDeployed';

-- The history, for people to read: of a machine, or of a subject (a host, a name, an image, the
-- portal).
CREATE TABLE event (
    vm TEXT REFERENCES vm (id),
    at INTEGER NOT NULL,
    who TEXT NOT NULL,                                           -- a user, 'host NAME', 'upkeep', …
    origin TEXT NOT NULL,                                        -- the address of the request
    what TEXT NOT NULL CHECK (what <> ''),
    detail TEXT NOT NULL,
    subject TEXT CHECK ((subject IS NULL) = (vm IS NOT NULL))
) STRICT;

CREATE INDEX event_vm ON event (vm);
CREATE INDEX event_at ON event (at);

-- Notices to owners about leases, each given once per end of a lease.
CREATE TABLE notice (
    vm TEXT NOT NULL REFERENCES vm (id),
    kind TEXT NOT NULL CHECK (kind <> ''),
    lease_end INTEGER NOT NULL,
    at INTEGER NOT NULL,
    lived INTEGER NOT NULL,                                      -- how long the portal had been alive, in s
    PRIMARY KEY (vm, kind, lease_end)
) STRICT, WITHOUT ROWID;

-- Orders that are recognized when they are repeated, for as long as their machine is on record.
CREATE TABLE deploy_request (
    owner TEXT NOT NULL REFERENCES user (canonical),
    request TEXT NOT NULL CHECK (request <> ''),                 -- the form's or script's key
    wish TEXT NOT NULL,                                          -- a digest of the request
    vm TEXT NOT NULL CHECK (length(vm) = 36),
    PRIMARY KEY (owner, request)
) STRICT, WITHOUT ROWID;

CREATE INDEX deploy_request_vm ON deploy_request (vm);

-- Saved images. Each has its file on one host.
CREATE TABLE image (
    owner TEXT NOT NULL REFERENCES user (canonical),
    name TEXT NOT NULL CHECK (name <> ''),
    host TEXT NOT NULL CHECK (host <> ''),
    base TEXT NOT NULL CHECK (base <> ''),                       -- the tag its machine was first made from
    bytes INTEGER NOT NULL CHECK (bytes >= 0),                   -- the size of the file
    disk_gib INTEGER NOT NULL CHECK (disk_gib > 0),              -- the smallest partition it fits in
    shared INTEGER NOT NULL DEFAULT 0 CHECK (shared IN (0, 1)),
    saved INTEGER NOT NULL,
    PRIMARY KEY (owner, name)
) STRICT, WITHOUT ROWID;

-- Snapshots of machines' disks, as their hosts last said.
CREATE TABLE snapshot (
    vm TEXT NOT NULL REFERENCES vm (id),
    name TEXT NOT NULL CHECK (name <> ''),
    taken INTEGER NOT NULL,
    holds_mib INTEGER NOT NULL CHECK (holds_mib >= 0),           -- the space that it may take
    PRIMARY KEY (vm, name)
) STRICT, WITHOUT ROWID;

-- What hosts last reported about themselves. Sizes in MiB.
CREATE TABLE host (
    name TEXT PRIMARY KEY NOT NULL CHECK (name <> ''),
    memory_free INTEGER NOT NULL CHECK (memory_free >= 0),
    memory_total INTEGER NOT NULL CHECK (memory_total >= 0),
    disk_free INTEGER NOT NULL CHECK (disk_free >= 0),
    disk_total INTEGER NOT NULL CHECK (disk_total >= 0),
    version TEXT NOT NULL,
    common_digest TEXT NOT NULL,                                 -- of its common.cfg
    seen INTEGER NOT NULL,
    images TEXT,                                                 -- tags of the files it has; NULL if unknown
    max_cpus INTEGER CHECK (max_cpus BETWEEN 1 AND 64),          -- the most it gives a machine; NULL if unknown
    deployable TEXT,                                             -- tags it can deploy; NULL if unknown
    emulated INTEGER NOT NULL DEFAULT 0 CHECK (emulated IN (0, 1)),   -- whether it emulates processors
    snapshots INTEGER NOT NULL DEFAULT 0 CHECK (snapshots IN (0, 1)), -- whether it can take snapshots
    pool_data INTEGER CHECK (pool_data BETWEEN 0 AND 100),       -- how full its thin pool is; NULL if it has none
    pool_metadata INTEGER CHECK
        ((pool_metadata IS NULL OR pool_metadata BETWEEN 0 AND 100) AND (pool_metadata IS NULL) = (pool_data IS NULL)),
    pool_told INTEGER NOT NULL DEFAULT 0 CHECK (pool_told IN (0, 1)) -- whether administrators know that it fills up
) STRICT, WITHOUT ROWID;

-- Hosts with failed deploys that were their own fault, since the last one that was not.
CREATE TABLE host_failure (
    host TEXT PRIMARY KEY NOT NULL CHECK (host <> ''),
    failures INTEGER NOT NULL CHECK (failures > 0),
    last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The outcome of upkeep's last attempt to reach each host.
CREATE TABLE contact (
    host TEXT PRIMARY KEY NOT NULL CHECK (host <> ''),
    tried INTEGER NOT NULL,
    fault TEXT,                                                  -- why it did not answer; NULL if it did
    since INTEGER NOT NULL,
    told INTEGER NOT NULL DEFAULT 0 CHECK (told IN (0, 1))       -- whether administrators know of the fault
) STRICT, WITHOUT ROWID;

-- Orphans: what hosts have and the registry does not. An administrator adopts them or has them
-- removed.
CREATE TABLE stray (
    host TEXT NOT NULL CHECK (host <> ''),
    kind TEXT NOT NULL CHECK (kind IN ('domain', 'volume', 'record', 'image')),
    name TEXT NOT NULL CHECK (name <> ''),
    detail TEXT NOT NULL,
    since INTEGER NOT NULL,
    ordered_by TEXT,                                             -- of its removal, unless that has failed
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

-- The outbox: mail waiting to be sent.
CREATE TABLE mail (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),        -- UUID, version 7; used in its Message-ID
    recipient TEXT NOT NULL CHECK (recipient <> ''),
    subject TEXT NOT NULL,
    plain TEXT NOT NULL,
    html TEXT NOT NULL,
    queued INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    next_try INTEGER NOT NULL,                                   -- put off while it is being sent
    error TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX mail_next ON mail (next_try);

-- Owners who had mail but no address, until they have one.
CREATE TABLE unreachable (
    owner TEXT PRIMARY KEY NOT NULL REFERENCES user (canonical),
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Failed deploys that administrators were told of, kept for a day.
CREATE TABLE told_fault (
    host TEXT NOT NULL CHECK (host <> ''),
    kind TEXT NOT NULL CHECK (kind <> ''),
    subject TEXT NOT NULL,                                       -- the image or name concerned; '' for none
    at INTEGER NOT NULL,
    PRIMARY KEY (host, kind, subject)
) STRICT, WITHOUT ROWID;

-- The portal's own clock. One row.
CREATE TABLE upkeep (
    only INTEGER PRIMARY KEY NOT NULL CHECK (only = 1),
    last INTEGER NOT NULL,                                       -- when upkeep last began
    lived INTEGER NOT NULL CHECK (lived >= 0)                    -- the sum of times between runs, in seconds
) STRICT, WITHOUT ROWID;

-- The registry's identity. One row, inserted by the program that creates the registry: SQL can't
-- generate a UUID of version 7.
CREATE TABLE identity (
    only INTEGER PRIMARY KEY NOT NULL CHECK (only = 1),
    id TEXT NOT NULL CHECK (length(id) = 36),
    since INTEGER NOT NULL,
    restored INTEGER,                                            -- when last restored from a backup
    compared INTEGER CHECK (compared IS NULL OR restored IS NOT NULL) -- when all hosts had been checked
) STRICT, WITHOUT ROWID;
