select *
from {{ ref('stg_orders') }}
where
    added_to_cart_at < created_at
    or purchased_at < added_to_cart_at
    or returned_at < purchased_at
    or (returned_at is not null and purchased_at is null)
