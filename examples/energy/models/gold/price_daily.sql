{{
    config(
        materialized='incremental',
        incremental_strategy='replace_window',
        event_time='delivery_date',
        begin='2026-09-01',
    )
}}

select
    market,
    cast(delivery_start as date) as delivery_date,
    cast(avg(price) as decimal(10, 2)) as base_price,
    min(price) as lowest_price,
    max(price) as highest_price,
    sum(volume_mwh) as volume_mwh
from {{ ref('stg_prices') }}
where {{ in_window('delivery_start', 'timestamptz') }} and {{ in_partition('market') }}
group by market, cast(delivery_start as date)
