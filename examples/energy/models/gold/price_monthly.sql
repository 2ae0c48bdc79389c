{{
    config(
        materialized='incremental',
        incremental_strategy='replace_window',
        event_time='delivery_month',
        begin='2026-09-01',
    )
}}

select
    market,
    cast(date_trunc('month', delivery_date) as date) as delivery_month,
    cast(avg(base_price) as decimal(10, 2)) as base_price,
    min(lowest_price) as lowest_price,
    max(highest_price) as highest_price,
    sum(volume_mwh) as volume_mwh
from {{ ref('price_daily') }}
where {{ in_window('delivery_date', 'date') }}
group by market, cast(date_trunc('month', delivery_date) as date)
