with customers as (

    select customer_id from {{ ref('dim_customer') }}

),

open_versions as (

    select customer_id
    from {{ ref('dim_customer_history') }}
    where dbt_valid_to is null

)

select
    customers.customer_id,
    open_versions.customer_id as open_version_customer_id
from customers
full outer join open_versions on customers.customer_id = open_versions.customer_id
where customers.customer_id is null or open_versions.customer_id is null
