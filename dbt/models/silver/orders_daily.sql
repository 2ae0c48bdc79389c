{{
    config(
        materialized='incremental',
        incremental_strategy='replace_window',
        event_time='ordered_at',
        begin='2025-01-01',
        on_schema_change='fail',
        properties={'partitioning': "ARRAY['month(ordered_at)']"} if target.type == 'trino' else {},
        post_hook='{{ compact_window() }}',
    )
}}

with orders as (

    select * from {{ ref('orders_enriched') }}
    where
        purchased_at is not null
        and {{ in_window('purchased_at') }}

),

final as (

    select
        order_id,
        customer_id,
        product_id,
        make,
        purchased_at as ordered_at,
        {{ local_date('purchased_at') }} as order_date,
        cast(list_price as decimal(18, 2)) as gross_revenue
    from orders

)

select * from final
