//! The tables of the registry: the current schema (`schema.sql`) and the migrations between
//! versions. A version that has shipped never changes.

/// The schema version of this program.
pub const NEWEST: u32 = 13;

/// The oldest version that this program can migrate. Earlier ones were never released.
pub const OLDEST: u32 = 11;

/// The schema of the newest version, for a new registry.
pub const SCHEMA: &str = include_str!("schema.sql");

/// The migrations, each from the version before it. Each runs in a transaction, with SQLite's
/// foreign key checks on. SQLite can't change a CHECK, so that takes a new table; then the tables
/// that refer to it have to be recreated, too. New columns have defaults, so that a program of the
/// old version that has the file open can finish its work.
pub const MIGRATIONS: [(u32, &str); 2] = [(12, SCHEMA_12), (13, SCHEMA_13)];

/// Who ordered the removal of an orphan and when. Until now this was read from the history: a
/// removal counts as ordered if that is the last event about the removal of this orphan.
const SCHEMA_12: &str = "
ALTER TABLE stray ADD COLUMN ordered_by TEXT;
ALTER TABLE stray ADD COLUMN ordered_at INTEGER CHECK ((ordered_at IS NULL) = (ordered_by IS NULL));

UPDATE stray SET (ordered_by, ordered_at) = (
    SELECT CASE what WHEN 'stray removal ordered' THEN who END, CASE what WHEN 'stray removal ordered' THEN at END
    FROM event
    WHERE subject = stray.host AND at >= stray.since AND what LIKE 'stray remov%'
        AND (detail = stray.kind || ' ' || stray.name
            OR substr(detail, 1, length(stray.kind || stray.name) + 3) = stray.kind || ' ' || stray.name || ': ')
    ORDER BY at DESC, event.rowid DESC LIMIT 1
);
";

/// The number of a machine's processors, which was one; and what a host's configuration allows: the
/// most processors that it gives a machine, and the images that it can deploy (tags separated by
/// blanks). NULL if it has not said. And whether it emulates processors.
const SCHEMA_13: &str = "
ALTER TABLE vm ADD COLUMN cpus INTEGER NOT NULL DEFAULT 1 CHECK (cpus BETWEEN 1 AND 64);
ALTER TABLE host ADD COLUMN max_cpus INTEGER CHECK (max_cpus BETWEEN 1 AND 64);
ALTER TABLE host ADD COLUMN deployable TEXT;
ALTER TABLE host ADD COLUMN emulated INTEGER NOT NULL DEFAULT 0 CHECK (emulated IN (0, 1));
";
