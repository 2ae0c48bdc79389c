select
    country,
    count(*) as customers,
    max(updated_at) as last_change
from {{ ref('stg_customers') }}
group by country
