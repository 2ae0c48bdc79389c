{{
    config(
        materialized='incremental',
        incremental_strategy='merge',
        unique_key='customer_id',
        on_schema_change='fail',
        post_hook="{{ delete_absent(ref('stg_customers'), 'customer_id') }}",
    )
}}

with customers as (

    select * from {{ ref('stg_customers') }}
    {% if is_incremental() %}
        where {{ is_unsettled(this) }}
    {% endif %}

),

final as (

    select
        customer_id,
        name,
        title,
        email,
        split_part(email, '@', 2) as email_domain,
        age,
        gender,
        language,
        nationality,
        occupation,
        city,
        state,
        country_code,
        created_at,
        updated_at,
        _airbyte_raw_id,
        _airbyte_extracted_at,
        _airbyte_generation_id
    from customers

)

select * from final
