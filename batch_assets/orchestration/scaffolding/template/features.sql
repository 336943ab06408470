-- What was known at the end of $partition: one row for each user who made a visit within four weeks.
-- The columns are those of the contract in defs.yaml. Never use what happened after $partition: a model would learn the future.
SELECT
    user_id,
    date_diff('day', max(day), $partition::DATE)::FLOAT AS days_since_last,
    count(*)::FLOAT AS visits_28d,
    (count(*) FILTER (day > $partition::DATE - 7))::FLOAT AS visits_7d,
    avg(minutes)::FLOAT AS minutes_28d,
    coalesce(avg(minutes) FILTER (day > $partition::DATE - 7), 0)::FLOAT AS minutes_7d
FROM visits
WHERE day > $partition::DATE - 28 AND day <= $partition::DATE
GROUP BY user_id
