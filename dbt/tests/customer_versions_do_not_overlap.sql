with versions as (

    select
        customer_id,
        dbt_valid_from,
        dbt_valid_to,
        lead(dbt_valid_from) over (
            partition by customer_id
            order by dbt_valid_from
        ) as next_valid_from
    from {{ ref('dim_customer_history') }}

)

select *
from versions
where dbt_valid_to < dbt_valid_from or coalesce(dbt_valid_to, timestamp '9999-12-31 00:00:00') > next_valid_from
