-- Moves a checkpoint from where its owner believes it is, and says so to those who wait for it.
-- CA002 when it is elsewhere: someone else is ahead, the whole transaction rolls back.
CREATE OR REPLACE FUNCTION advance_checkpoint(
    of_projection text, of_topic text, old_position bigint, old_n int, new_position bigint, new_n int
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE checkpoints SET position = new_position, n = new_n
    WHERE projection = of_projection AND topic = of_topic AND position = old_position AND n = old_n;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'checkpoint of % on % is not at %-%', of_projection, of_topic, old_position, old_n
            USING ERRCODE = 'CA002';
    END IF;
    PERFORM pg_notify('caracal_checkpoints', of_projection || ' ' || of_topic || ' ' || new_position);
END $$;
