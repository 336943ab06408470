-- What was known at the end of $partition of every plane that flew within four weeks, one row per tail number.
SELECT
    tailnum,
    date_diff('day', max(day), $partition::DATE)::FLOAT AS days_since_last,
    count(*)::FLOAT AS flights,
    (count(*) FILTER (day > $partition::DATE - 7))::FLOAT AS flights_7d,
    avg((dep_delay > 15)::INT)::FLOAT AS late_share,
    avg(dep_delay)::FLOAT AS dep_delay,
    avg(air_time)::FLOAT AS air_time,
    avg(distance)::FLOAT AS distance,
    avg(hour)::FLOAT AS hour
FROM flights
WHERE day > $partition::DATE - 28 AND day <= $partition::DATE
  AND tailnum IS NOT NULL AND dep_delay IS NOT NULL AND air_time IS NOT NULL
GROUP BY tailnum
