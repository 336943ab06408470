-- Recency, frequency and amount of every CDNOW customer who has bought by the end of $partition.
-- Only purchases up to and including that day are used.
SELECT
    customer_id,
    date_diff('day', max(date), $partition::DATE)::FLOAT AS days_since_last,
    date_diff('day', min(date), $partition::DATE)::FLOAT AS days_since_first,
    count(*)::FLOAT AS orders,
    (count(*) FILTER (date > $partition::DATE - 90))::FLOAT AS orders_90d,
    sum(cds)::FLOAT AS cds,
    sum(amount::DECIMAL(18, 2))::FLOAT AS amount,
    coalesce(sum(amount::DECIMAL(18, 2)) FILTER (date > $partition::DATE - 90), 0)::FLOAT AS amount_90d
FROM transactions
WHERE date <= $partition::DATE
GROUP BY customer_id
