{{
    config(
        materialized='incremental',
        incremental_strategy='replace_window',
        event_time='delivery_start',
        begin='2026-09-01',
    )
}}

select
    market,
    delivery_start,
    price,
    volume_mwh,
    _file
from {{ source('landing', 'day_ahead_prices') }}
where {{ in_window('delivery_start', 'timestamptz') }} and {{ in_partition('market') }}
