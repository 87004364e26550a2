-- Which state writes into this database. Rows are recognised by commit number, and another state counts its commits
-- anew: its rows would be taken for rows that are there already. So a second state is refused.
CREATE TABLE IF NOT EXISTS tributary_state
(
    pipeline        String                            COMMENT 'pipeline in the definitions',
    generation      String                            COMMENT 'id of the state, made when the state was created'
)
ENGINE = MergeTree
ORDER BY pipeline
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1
COMMENT 'which state writes into this database';
