"""Update equilibrium: do rotations per step stay the same over width?"""
