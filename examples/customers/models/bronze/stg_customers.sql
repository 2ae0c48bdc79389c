select
    id,
    name,
    country,
    created_at,
    updated_at
from {{ source('customers', 'customers') }}
